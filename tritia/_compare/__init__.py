"""The three-figure comparison behind `tritia compare`: learning curve, reproducibility, cost.

Read the modules in this order: `datasets` (with `files`, `idx`, `planetoid` and `array_pickle`)
says what is trained on, `network` what is trained, `optimizers` with what, `training` how, `tuning`
how the learning rate is chosen, `timing` how the cost is measured, `summary` which figures are
computed from the curves, `folder` and `results` how they are kept on disk, `report`, `plots` and
`interactive` (with `colours`) how they are shown, and `experiment` how it all runs.

Within the library only `tritia._command_line` imports this; so do benchmarks. It needs the extra
`tritia[compare]`.
"""
