"""Logs a comparison to MLflow: `tritia compare --callback log_to_mlflow:log`."""

import mlflow

client, runs = mlflow.MlflowClient(), {}


def log(record):
    """Logs what one optimizer has reached with one seed after one epoch."""
    key = record.optimizer, record.seed
    if key not in runs:
        run = client.create_run("0", run_name=f"{record.optimizer} {record.seed}")
        runs[key] = run.info.run_id
        for name, value in record.setting.items():
            client.log_param(runs[key], name, value)
    for name, value in record.metrics.items():
        client.log_metric(runs[key], name, value, step=record.epoch)
