//! `hw_single(value)`: the value of the only row, NULL without one, an error with more.
//!
//! What a scalar subquery means, said as an aggregate: a correlated one becomes a join that way.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use crate::error::SqlError;
use crate::sqlstate;

/// The function's name.
pub(crate) const SINGLE: &str = "hw_single";

pub(crate) fn single_function() -> AggregateUDF {
    AggregateUDF::from(Single { signature: Signature::any(1, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Single {
    signature: Signature,
}

impl AggregateUDFImpl for Single {
    fn name(&self) -> &str {
        SINGLE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(arguments[0].clone())
    }

    fn return_field(&self, arguments: &[FieldRef]) -> Result<FieldRef, DataFusionError> {
        // With its metadata: the column type goes with the value.
        Ok(Field::clone(&arguments[0]).with_name(SINGLE).with_nullable(true).into())
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>, DataFusionError> {
        let value = ScalarValue::try_from(arguments.return_field.data_type())?;
        Ok(Box::new(SingleValue { rows: 0, value }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>, DataFusionError> {
        let value = Field::new("value", arguments.return_field.data_type().clone(), true);
        Ok(vec![Field::new("rows", DataType::UInt64, false).into(), value.into()])
    }
}

#[derive(Debug)]
struct SingleValue {
    rows: u64,
    value: ScalarValue,
}

impl SingleValue {
    fn add(
        &mut self,
        rows: u64,
        value: impl FnOnce() -> Result<ScalarValue, DataFusionError>,
    ) -> Result<(), DataFusionError> {
        self.rows += rows;
        if self.rows > 1 {
            let message = "more than one row returned by a subquery used as an expression";
            return Err(SqlError::new(sqlstate::CARDINALITY_VIOLATION, message).into_datafusion());
        }
        if rows == 1 {
            self.value = value()?;
        }
        Ok(())
    }
}

impl Accumulator for SingleValue {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<(), DataFusionError> {
        self.add(values[0].len() as u64, || ScalarValue::try_from_array(&values[0], 0))
    }

    fn evaluate(&mut self) -> Result<ScalarValue, DataFusionError> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.value.size() - size_of_val(&self.value)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>, DataFusionError> {
        Ok(vec![ScalarValue::UInt64(Some(self.rows)), self.value.clone()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<(), DataFusionError> {
        for row in 0..states[0].len() {
            let ScalarValue::UInt64(Some(rows)) = ScalarValue::try_from_array(&states[0], row)? else { continue };
            self.add(rows, || ScalarValue::try_from_array(&states[1], row))?;
        }
        Ok(())
    }
}
