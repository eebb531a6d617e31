//! The order of arrays, as PostgreSQL has it: element by element, a NULL behind everything else, the shorter before the longer. Arrow's
//! operators hold a NULL for the smallest.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, exec_err};
use datafusion::functions::utils::make_scalar_function;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// How two arrays compare, as an integer below, at or above zero; NULL where one of them is.
pub(crate) fn array_order(left: Expr, right: Expr) -> Expr {
    ScalarUDF::from(ArrayOrder { signature: Signature::user_defined(Volatility::Immutable) }).call(vec![left, right])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ArrayOrder {
    signature: Signature,
}

impl ScalarUDFImpl for ArrayOrder {
    fn name(&self) -> &str {
        "hw_array_order"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        let [left, right] = types else { return exec_err!("No function matches: an order is one of two arrays") };
        let (left, right) = BinaryTypeCoercer::new(left, &Operator::Lt, right).get_input_types()?;
        Ok(vec![left, right])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(DataType::Int32)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        make_scalar_function(order, Vec::new())(&args.args)
    }
}

fn order(args: &[ArrayRef]) -> Result<ArrayRef, DataFusionError> {
    let [left, right] = args else { return exec_err!("an order is one of two arrays") };
    let compare = make_comparator(left, right, SortOptions { descending: false, nulls_first: false })?;
    let order = |row| (left.is_valid(row) && right.is_valid(row)).then(|| compare(row, row) as i32);
    Ok(Arc::new((0..left.len()).map(order).collect::<Int32Array>()))
}
