"""What the workers of one machine share: the device's turns and its memory."""
