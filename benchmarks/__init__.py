"""One file, one claim: what is measured, as ratios within one run, with the hardware named in the result."""
