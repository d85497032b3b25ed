"""The mathematics of learning from a stream: features, the recursive ridge router, adapter learners, gate and metrics.

Knows nothing of Ray, Kafka, vLLM or configuration objects: every argument is plain.
"""
