"""What travels over the broker. Pure: topics, messages and feature-map fragments to bytes and back."""
