"""The transfer engine and the memory that it writes."""
