"""Runs workloads on the Python vLLM (CPU): `python vllm_cpu.py CHECKPOINT WORKLOAD...`."""

import os
import sys

from workload import Workload, report_peak, report_ready

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def main(model, workloads):
    from vllm import LLM, SamplingParams

    longest = max([workload.prompt + workload.new for workload in workloads], default=0)
    llm = LLM(
        model=model,
        dtype="bfloat16",
        max_model_len=max(2304, longest),
        max_num_batched_tokens=4096,
        enable_prefix_caching=True,
    )

    def run(prompts, new):
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = llm.generate(inputs, params, use_tqdm=False)
        assert all(len(output.outputs[0].token_ids) == new for output in outputs)

    run([[11, 12, 13, 14]], 1)
    report_ready()
    for workload in workloads:
        workload.measure(run)
    report_peak()


if __name__ == "__main__":
    main(sys.argv[1], [Workload(text) for text in sys.argv[2:]])
