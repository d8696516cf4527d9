"""What the stored reports of a sweep tell afterwards, since what decides is a pure function."""
