"""What people see of a sweep; reads the database only."""
