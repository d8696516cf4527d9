"""The experiment: what the user says, made into a sweep that runs."""
