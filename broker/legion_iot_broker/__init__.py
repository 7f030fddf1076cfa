"""Brokers that legion-iot starts by itself: Mosquitto as a child process, or one of its own (see `launch`)."""
