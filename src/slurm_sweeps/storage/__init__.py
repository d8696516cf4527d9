"""What is kept on disk: the database, and one place that knows every file name."""
