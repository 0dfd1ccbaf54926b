//! KV-cache blocks: allocation, reference counts, prefix lookup and LRU eviction.
