"""Which pages are stored, how they were used, and which of them leave first."""
