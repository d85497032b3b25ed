"""Records, their wire format, and the streams they travel on: Apache Kafka, or an embedded log in one file.

Reading order: `records` (what travels), `wire` (its bytes), `source` (the contract), `embedded` and `kafka` (its two
implementations), `location` (choosing one), `dead_letters` (what could not be read), `broker` (for development).
"""
