"""What Sender is made of: the payloads and destinations of one call, and the sockets to send by."""
