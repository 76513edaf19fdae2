"""Operations in the hands of a minifilter: post-operation work, cancellation, waits, queues."""
