"""What happened to a request, on one time axis: from what each participant measured, without comparing clocks."""
