//! Functions that PostgreSQL has otherwise than DataFusion, or DataFusion not at all.

mod arithmetic;
mod array_order;
mod calendar;
mod date_part;
mod date_trunc;
mod domain;
mod single;
mod sum;

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::execution::FunctionRegistry;

pub(crate) use arithmetic::{arithmetic, is_arithmetic};
pub(crate) use array_order::array_order;
pub(crate) use single::SINGLE;

use crate::cast::{assign_function, cast_function};

/// Registers them, over DataFusion's of the same names.
///
/// # Errors
/// When the registry takes no functions.
pub(crate) fn register(registry: &mut dyn FunctionRegistry) -> Result<(), DataFusionError> {
    registry.register_udf(Arc::new(cast_function()))?;
    registry.register_udf(Arc::new(assign_function()))?;
    registry.register_udf(Arc::new(date_trunc::date_trunc_function()))?;
    registry.register_udf(Arc::new(date_part::date_part_function()))?;
    for name in domain::NAMES {
        let known = registry.udf(name)?;
        registry.register_udf(Arc::new(domain::guarded(known)))?;
    }
    registry.register_udaf(Arc::new(single::single_function()))?;
    let sum = registry.udaf("sum")?;
    registry.register_udaf(Arc::new(sum::sum_function(sum)))?;
    Ok(())
}
