"""The three-figure comparison behind `tritia compare`: learning curve, reproducibility, cost.

Read the modules in this order: `datasets` (with `files`, `idx`, `planetoid` and `array_pickle`)
says what is trained on, `own_data` (with `data_files`) the same of a user's own table, `network`
what is trained, `optimizers` and `own_code` with what, `training` how, `tuning` how the learning
rate is chosen, `timing` how the cost is measured, `summary` which figures are computed from the
curves, `folder`, `results` and `checkpoints` how they are kept on disk, `records` who is told of
them meanwhile, `report`, `plots` and `interactive` (with `colours`) how they are shown, `request`
(with `data_choice`) what is asked for, and `experiment` how it all runs.

Within the library only `tritia._command_line` imports this; so do benchmarks. It needs the extra
`tritia[compare]`.
"""
