"""Benchmarks against peers. They print ratios of one run and write medians' raw values; no test asserts a time. See README.md."""
