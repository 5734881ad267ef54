"""The three-figure comparison behind `tritia compare`: learning curve, reproducibility, cost.

Read the modules in this order: `datasets` (with `idx` and `planetoid`) says what is trained on,
`network` what is trained, `optimizers` with what, `training` how, `tuning` how the learning rate is
chosen, `timing` how the cost is measured, `summary` which figures are drawn from the curves,
`results` how they are kept on disk, `report` and `plots` how they are shown, `experiment` how it
all runs, and `command_line` how it is asked for.

Nothing here is imported by the rest of the library. It needs the extra `tritia[compare]`.
"""
