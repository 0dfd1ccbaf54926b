"""Runs workloads on llama.cpp: `python llama_cpp_native.py MODEL.gguf WORKLOAD...`.

Drives the library's own batches, with one sequence per request, so that nothing of Python but the
choice of the largest logit is in the measured time.
"""

import os
import sys

import llama_cpp
import numpy as np
from workload import Workload, report_peak, report_ready


class Llama:
    def __init__(self, path, sequences, cells):
        threads = len(os.sched_getaffinity(0))
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        assert self.model, f"llama.cpp cannot load {path}"
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = 2048
        params.n_ubatch = 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        self.n_batch = params.n_batch
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        assert self.context, "llama.cpp cannot make a context"
        self.memory = llama_cpp.llama_get_memory(self.context)
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.batch = llama_cpp.llama_batch_init(self.n_batch, 0, sequences)

    def decode(self, entries):
        """Feeds (token, position, sequence, wants logits); returns the chosen next tokens."""
        chosen = []
        for start in range(0, len(entries), self.n_batch):
            part = entries[start : start + self.n_batch]
            batch = self.batch
            batch.n_tokens = len(part)
            for row, (token, position, sequence, wanted) in enumerate(part):
                batch.token[row] = token
                batch.pos[row] = position
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = sequence
                batch.logits[row] = wanted
            status = llama_cpp.llama_decode(self.context, batch)
            assert status == 0, f"llama_decode answers {status}"
            for row, (_, _, sequence, wanted) in enumerate(part):
                if wanted:
                    logits = llama_cpp.llama_get_logits_ith(self.context, row)
                    logits = np.ctypeslib.as_array(logits, shape=(self.vocabulary_size,))
                    chosen.append((sequence, int(logits.argmax())))
        return chosen

    def generate(self, prompts, new, shared):
        llama_cpp.llama_memory_clear(self.memory, False)
        if shared:
            self.decode([(token, at, 0, False) for at, token in enumerate(prompts[0][:shared])])
            for sequence in range(1, len(prompts)):
                llama_cpp.llama_memory_seq_cp(self.memory, 0, sequence, 0, shared)
        chosen = self.decode(
            [
                (token, at, sequence, at == len(prompt) - 1)
                for sequence, prompt in enumerate(prompts)
                for at, token in enumerate(prompt)
                if at >= shared
            ]
        )
        for step in range(new - 1):
            position = len(prompts[0]) + step
            chosen = self.decode([(token, position, sequence, True) for sequence, token in chosen])


def main(path, workloads):
    @llama_cpp.llama_log_callback
    def silent(level, text, data):
        if level >= 4:
            sys.stderr.write(text.decode())

    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    sequences = max([workload.batch for workload in workloads], default=1)
    cells = max([w.shared + w.batch * (w.prompt - w.shared + w.new) for w in workloads], default=64)
    llama = Llama(path, sequences, cells + 256)
    llama.generate([[11, 12, 13, 14]], 1, 0)
    report_ready()
    for workload in workloads:
        workload.measure(lambda prompts, new, shared=workload.shared: llama.generate(prompts, new, shared))
    report_peak()


if __name__ == "__main__":
    main(sys.argv[1], [Workload(text) for text in sys.argv[2:]])
