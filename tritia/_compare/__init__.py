"""The three-figure comparison behind `tritia compare`: learning curve, reproducibility, cost.

Read the modules in this order: `datasets` (with `idx` and `planetoid`) says what is trained on,
`network` what is trained, `optimizers` with what, `training` how, `tuning` how the learning rate is
chosen, `timing` how the cost is measured, `summary` which figures are drawn from the curves,
`folder` and `results` how they are kept on disk, `report` and `plots` how they are shown, and
`experiment` how it all runs.

Only `tritia._command_line` imports this. It needs the extra `tritia[compare]`.
"""
