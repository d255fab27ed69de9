"""The engine that writes down what is said."""
