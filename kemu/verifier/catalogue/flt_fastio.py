"""Fast I/O and FSFilter operations, oplocks, transactions, sections for data scans."""
