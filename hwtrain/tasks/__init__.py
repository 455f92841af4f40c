"""Named data as streams of samples with random access; every task is a function that returns a `DataTask`."""
