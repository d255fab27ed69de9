"""What is relied on in mlx-lm beyond its documented interface, for all of the worker.

A test pins the list to the version: when mlx-lm changes, read each line and the code that it names again.
"""

MLX_LM_VERSION = "0.32"
MLX_LM_INTERNALS = (
    "KVCache: keys, values [1, heads, room, dim] with the first `offset` used; trim only lowers `offset`; grows "
    "by `step`",
    "KVCache.update_and_fetch writes in place where nothing else holds the arrays, and copies first where "
    "something does",
    "RotatingKVCache: `_idx` is where the oldest token stands in a full ring, else the end; in order after a pass"
    " of several tokens, with the window and as many tokens more as the pass had less one; keep, max_size",
    "ChunkedKVCache: tokens since `start_position` in order; the model calls maybe_trim_front before each pass",
    "ArraysCache: `cache` is a list of arrays that a pass replaces and never changes; left_padding, lengths",
    "CacheList: `caches`, which may be replaced",
    "merge, extend, filter, extract of KVCache, RotatingKVCache, ArraysCache, CacheList and their batch classes",
    "BatchKVCache: rows right-justified behind `left_padding`, all ending at `_idx`; `offset` of each row, which "
    "passes change by an operation that nothing evaluates unless the model reads it (BatchRotatingKVCache sees to"
    " that itself)",
    "state and from_state of KVCache, RotatingKVCache, ChunkedKVCache and ArraysCache: all that they hold, arrays"
    " and numbers",
    "make_prompt_cache gives KVCaches where the model has no make_cache",
    "model(tokens [rows, n], cache=…, input_embeddings=…) gives logits [rows, n, vocab]; a cache list is changed "
    "in place",
    "embed_inputs(tokens, pixel_values=…) of models with a processor; load_processor; Processor",
    "load_model(folder, lazy=True) and load_tokenizer(folder, config, eos_token_ids=…); neither runs code of the "
    "model's folder unless told to",
    "TokenizerWrapper: detokenizer, eos_token_ids, has_thinking, think_start, think_end, has_tool_calling, "
    "tool_parser, response_initial_state, response_transitions, structural_markers; all else is the wrapped "
    "tokenizer's",
    "BPEStreamingDetokenizer.tokenmap: texts by id in GPT-2's byte alphabet; SPMStreamingDetokenizer.tokenmap: "
    "bytes by id; SPMStreamingDetokenizer.trim_space",
    "tool_parsers: a module for each family with parse_tool_call, tool_call_start, tool_call_end",
    "a model's module that lacks a package prints so and raises SystemExit",
)
