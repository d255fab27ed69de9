"""From tokens to answers, for every engine that generates tokens: texts, forms, and the events of an answer."""
