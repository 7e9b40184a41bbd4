"""Delta aggregated discovery: the resources of now, what each client holds of them, and the stream between the two."""
