"""GGUF models: llama.cpp's server computes, everything that is said to it and read from it is ours."""
