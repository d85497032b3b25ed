"""Records, their wire format, and the streams they travel on: Apache Kafka, or an embedded log in one file.

Reading order: `records` (what travels), `wire` (its bytes), `entries` (what a sink takes), `source` (the contract),
`beginnings` (where reading starts), `embedded` and `kafka` (its two implementations), `location` (choosing one),
`dead_letters` and `letter` (what could not be read), `rows` and `columns` (files of examples), `feeding` (one onto a
stream), `broker` (for development).
"""
