"""File names as minifilters ask for them."""
