"""What each device shall do. Pure: numbers in, a Plan out."""
