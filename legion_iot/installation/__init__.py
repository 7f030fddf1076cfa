"""Programs as services of systemd: settings, credentials and units into their places, and out of them again."""
