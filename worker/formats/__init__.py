"""How model families write calls and messages: readers, grammars and schemas."""
