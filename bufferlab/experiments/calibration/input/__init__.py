"""What measurements say: tables of rows, and the events of run directories."""
