"""Running a sweep: the driver here, and hosts, workers and trials at the end of the channel."""
