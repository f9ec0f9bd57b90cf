//! One block.

use std::collections::BTreeMap;

use serde_json::json;
use workbench_api::job::{Block, Facts, Linear};
use workbench_api::sdk::{Error, Host};
use workbench_model::decoder::{LearnedRoundingParams, TrainableParams};
use workbench_model::device;
use workbench_plugin_model::{ChangedCodes, HostWeights, block_data, model_config, model_error, observe, train_error};
use workbench_quant::Grid;
use workbench_train::{BlockRegression, StudentBlock, descend_by_signs};

use crate::parameters::Parameters;

/// Learns how the weights of a block are rounded, and puts their codes.
pub(crate) fn run(parameters: &Parameters, job: &Block, host: &Host<'_>) -> Result<Facts, Error> {
    let config = model_config(host)?;
    let (mut grids, mut inputs) = (BTreeMap::new(), BTreeMap::new());
    let coded: Vec<&Linear> = job.linears.iter().filter(|linear| !linear.grid.is_null()).collect();
    for linear in &coded {
        grids.insert(linear.weight.clone(), linear.grid::<Grid>()?);
        if let Some(grid) = linear.input_grid::<Grid>()? {
            inputs.insert(linear.module.clone(), grid);
        }
    }
    if grids.is_empty() {
        return Ok(Facts::new());
    }
    let source = HostWeights::new(host);
    let weights = TrainableParams::load_block(&config, &source, job.block, &device::chosen()).map_err(model_error)?;
    let rounding = LearnedRoundingParams::new(weights, grids).map_err(model_error)?;
    let data = block_data(host, job, &config)?;
    let student = StudentBlock::new(&config, job.block, &rounding, inputs).map_err(model_error)?;
    let mut objective = BlockRegression::new(student, rounding.parameters(), &data, 0).map_err(train_error)?;
    let before = objective.training_loss().map_err(train_error)?;
    let summary = descend_by_signs(rounding.parameters(), &mut objective, &parameters.config(), &mut observe(host));
    let summary = summary.map_err(train_error)?;
    let after = objective.training_loss().map_err(train_error)?;
    let mut changed = ChangedCodes::default();
    for linear in &coded {
        changed.put(host, linear, rounding.quantized(&linear.weight).map_err(model_error)?)?;
    }
    let mut facts = Facts::from_iter([
        ("loss_before".to_owned(), json!(before)),
        ("loss_after".to_owned(), json!(after)),
        ("codes".to_owned(), json!({ "all": changed.all, "changed": changed.changed })),
        ("changed_zero_points".to_owned(), json!(changed.zero_points)),
        ("sequences".to_owned(), json!(data.sequences())),
    ]);
    if let Some((step, loss)) = summary.kept {
        facts.insert("kept_step".to_owned(), json!(step));
        facts.insert("kept_loss".to_owned(), json!(loss));
    }
    Ok(facts)
}
