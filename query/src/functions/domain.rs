//! DataFusion's functions with PostgreSQL's domains, outside of which they fail and do not give NaN or infinities; `round` of floats
//! to the even neighbour.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use datafusion::common::DataFusionError;
use datafusion::functions::utils::make_scalar_function;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::error::SqlError;
use crate::sqlstate;

/// The functions that are guarded.
pub(super) const NAMES: [&str; 10] = ["sqrt", "ln", "log", "log2", "log10", "power", "exp", "acos", "asin", "round"];

/// A function of one of these names with the domain that it has in PostgreSQL.
pub(super) fn guarded(inner: Arc<ScalarUDF>) -> ScalarUDF {
    Guarded { inner }.into()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Guarded {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Guarded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType, DataFusionError> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef, DataFusionError> {
        self.inner.return_field_from_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult, DataFusionError> {
        self.inner.simplify(args, context)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties, DataFusionError> {
        self.inner.output_ordering(inputs)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        if let ("round", [float]) = (self.name(), &args.args[..])
            && float.data_type().is_floating()
        {
            return make_scalar_function(rounded, Vec::new())(&args.args);
        }
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let numbers = |value: &ColumnarValue| cast(&value.to_array(rows)?, &DataType::Float64).map_err(Into::into);
        let inputs = args.args.iter().map(numbers).collect::<Result<Vec<ArrayRef>, DataFusionError>>()?;
        let inputs: Vec<_> = inputs.iter().map(|input| input.as_primitive::<Float64Type>()).collect();
        let is_given = |row: usize| inputs.iter().all(|input| input.is_valid(row));
        let mut values = Vec::with_capacity(inputs.len());
        for row in (0..rows).filter(|row| is_given(*row)) {
            values.clear();
            values.extend(inputs.iter().map(|input| input.value(row)));
            check(self.name(), &values).map_err(SqlError::into_datafusion)?;
        }
        let result = self.inner.invoke_with_args(args)?;
        if result.data_type().is_floating() {
            let outputs = cast(&result.to_array(rows)?, &DataType::Float64)?;
            let outputs = outputs.as_primitive::<Float64Type>();
            let is_finite_given = |row: usize| inputs.iter().all(|input| input.value(row).is_finite());
            let has_overflown = |row: usize| outputs.is_valid(row) && !outputs.value(row).is_finite();
            if (0..rows).any(|row| is_given(row) && has_overflown(row) && is_finite_given(row)) {
                let error = SqlError::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow");
                return Err(error.into_datafusion());
            }
        }
        Ok(result)
    }
}

fn check(name: &str, values: &[f64]) -> Result<(), SqlError> {
    let fails = |sqlstate, message: &'static str| Err(SqlError::new(sqlstate, message));
    match (name, values) {
        ("sqrt", [value]) if *value < 0.0 => {
            fails(sqlstate::INVALID_ARGUMENT_FOR_POWER, "cannot take square root of a negative number")
        }
        ("ln" | "log" | "log2" | "log10", values) if values.contains(&0.0) => {
            fails(sqlstate::INVALID_ARGUMENT_FOR_LOGARITHM, "cannot take logarithm of zero")
        }
        ("ln" | "log" | "log2" | "log10", values) if values.iter().any(|value| *value < 0.0) => {
            fails(sqlstate::INVALID_ARGUMENT_FOR_LOGARITHM, "cannot take logarithm of a negative number")
        }
        ("log", [base, _]) if *base == 1.0 => fails(sqlstate::DIVISION_BY_ZERO, "division by zero"),
        ("power", [base, exponent]) if *base == 0.0 && *exponent < 0.0 => {
            fails(sqlstate::INVALID_ARGUMENT_FOR_POWER, "zero raised to a negative power is undefined")
        }
        ("power", [base, exponent]) if *base < 0.0 && exponent.is_finite() && exponent.fract() != 0.0 => fails(
            sqlstate::INVALID_ARGUMENT_FOR_POWER,
            "a negative number raised to a non-integer power yields a complex result",
        ),
        ("acos" | "asin", [value]) if value.abs() > 1.0 => {
            fails(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "input is out of range")
        }
        _ => Ok(()),
    }
}

fn rounded(args: &[ArrayRef]) -> Result<ArrayRef, DataFusionError> {
    Ok(match args[0].data_type() {
        DataType::Float32 => {
            Arc::new(args[0].as_primitive::<Float32Type>().unary::<_, Float32Type>(f32::round_ties_even))
        }
        _ => {
            let numbers = cast(&args[0], &DataType::Float64)?;
            Arc::new(numbers.as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::round_ties_even))
        }
    })
}
