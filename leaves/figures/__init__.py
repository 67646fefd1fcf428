"""The figures of the chapters: each function takes data, draws one figure and returns it."""
