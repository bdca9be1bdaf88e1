"""Benchmarks: cold start and throughput of running images."""
