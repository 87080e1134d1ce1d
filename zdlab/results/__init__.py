"""What is kept of runs: SQLite for questions, JSON lines for everything, and the forms they are shown in."""
