"""The console: what it shows and changes, over an API that scripts can use as well, and its page."""
