//! Arithmetic that fails where its result does not fit: `a + b` of integers and floats, and what moments do with intervals.
//!
//! DataFusion's operators wrap around, and give infinities. Decimals keep them: they are checked there.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, Scalar};
use arrow::compute::kernels::numeric;
use arrow::compute::try_binary;
use arrow::datatypes::{DataType, Float32Type, Float64Type, IntervalUnit};
use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::functions::utils::make_scalar_function;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::calendar::{self, Moments};
use crate::error::SqlError;
use crate::sqlstate;

/// Whether a function of ours does this for operands of these types.
pub(crate) fn is_arithmetic(left: &DataType, operator: Operator, right: &DataType) -> bool {
    Operation::of(left, operator, right).is_some()
}

/// The operator as a call.
pub(crate) fn arithmetic(left: Expr, operator: Operator, right: Expr) -> Expr {
    let signature = Signature::user_defined(Volatility::Immutable);
    ScalarUDF::from(Arithmetic { operator, signature }).call(vec![left, right])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Arithmetic {
    operator: Operator,
    signature: Signature,
}

/// What is done, and the types that it is done with.
enum Operation {
    Integers(DataType),
    Floats(DataType),
    Moments(Moments),
}

impl Operation {
    fn of(left: &DataType, operator: Operator, right: &DataType) -> Option<Self> {
        if let Some(moments) = Moments::of(left, operator, right) {
            return Some(Self::Moments(moments));
        }
        if !(left.is_numeric() && right.is_numeric()) {
            return None;
        }
        if [left, right].contains(&&DataType::Float32) && (left.is_integer() || right.is_integer()) {
            // There is no operator for the two: they meet in `double precision`.
            let is_known = matches!(operator, Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide);
            return is_known.then_some(Self::Floats(DataType::Float64));
        }
        let coerced = BinaryTypeCoercer::new(left, &operator, right).get_input_types().ok()?.0;
        match (operator, coerced) {
            (Operator::Plus | Operator::Minus | Operator::Multiply, integer) if integer.is_integer() => {
                // SQL has no unsigned numbers: a difference of two may be below zero.
                let is_unsigned = left.is_unsigned_integer() || right.is_unsigned_integer();
                Some(Self::Integers(if is_unsigned { DataType::Int64 } else { integer }))
            }
            (
                Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide,
                float @ (DataType::Float32 | DataType::Float64),
            ) => Some(Self::Floats(float)),
            _ => None,
        }
    }
}

impl Arithmetic {
    fn operation(&self, types: &[DataType]) -> Result<Operation, DataFusionError> {
        let operation = match types {
            [left, right] => Operation::of(left, self.operator, right),
            _ => None,
        };
        operation.ok_or_else(|| {
            let types = types.iter().map(ToString::to_string).collect::<Vec<_>>().join(&format!(" {} ", self.operator));
            SqlError::new(sqlstate::UNDEFINED_FUNCTION, format!("operator does not exist: {types}")).into_datafusion()
        })
    }
}

impl ScalarUDFImpl for Arithmetic {
    fn name(&self) -> &str {
        match self.operator {
            Operator::Plus => "hw_add",
            Operator::Minus => "hw_subtract",
            Operator::Multiply => "hw_multiply",
            _ => "hw_divide",
        }
    }

    // Columns are known by the names of what they are computed by: it goes by the name that the operator has.
    fn schema_name(&self, args: &[Expr]) -> Result<String, DataFusionError> {
        let name = |operand: &Expr| match operand {
            Expr::ScalarFunction(call) if call.func.inner().is::<Self>() => format!("({})", operand.schema_name()),
            Expr::BinaryExpr(_) => format!("({})", operand.schema_name()),
            _ => operand.schema_name().to_string(),
        };
        Ok(format!("{} {} {}", name(&args[0]), self.operator, name(&args[1])))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        Ok(match self.operation(types)? {
            Operation::Integers(coerced) | Operation::Floats(coerced) => vec![coerced.clone(), coerced],
            Operation::Moments(moments) => moments.coerced(types),
        })
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(match self.operation(types)? {
            Operation::Integers(coerced) | Operation::Floats(coerced) => coerced,
            Operation::Moments(moments) => moments.result(types),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        match self.operation(&types)? {
            Operation::Integers(_) => self.integers(&args.args),
            Operation::Floats(DataType::Float32) => {
                make_scalar_function(|args| self.floats::<Float32Type>(args), Vec::new())(&args.args)
            }
            Operation::Floats(_) => {
                make_scalar_function(|args| self.floats::<Float64Type>(args), Vec::new())(&args.args)
            }
            Operation::Moments(moments) => {
                let compute = |args: &[ArrayRef]| {
                    calendar::compute(moments, &args[0], &args[1]).map_err(SqlError::into_datafusion)
                };
                make_scalar_function(compute, Vec::new())(&args.args)
            }
        }
    }
}

impl Arithmetic {
    /// Arrow's kernels take a scalar as one.
    fn integers(&self, operands: &[ColumnarValue]) -> Result<ColumnarValue, DataFusionError> {
        let kernel = match self.operator {
            Operator::Plus => numeric::add,
            Operator::Minus => numeric::sub,
            _ => numeric::mul,
        };
        let result = match operands {
            [ColumnarValue::Array(left), ColumnarValue::Array(right)] => kernel(left, right)?,
            [ColumnarValue::Array(left), ColumnarValue::Scalar(right)] => {
                kernel(left, &Scalar::new(right.to_array()?))?
            }
            [ColumnarValue::Scalar(left), ColumnarValue::Array(right)] => {
                kernel(&Scalar::new(left.to_array()?), right)?
            }
            [ColumnarValue::Scalar(left), ColumnarValue::Scalar(right)] => {
                let result = kernel(&left.to_array()?, &right.to_array()?)?;
                return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
            }
            _ => return Err(SqlError::internal("an operator takes two operands").into_datafusion()),
        };
        Ok(ColumnarValue::Array(result))
    }

    /// PostgreSQL's `float8pl` and its like: what comes out of finite numbers is finite, and not zero unless it is exact.
    fn floats<T: ArrowPrimitiveType>(&self, operands: &[ArrayRef]) -> Result<ArrayRef, DataFusionError>
    where
        T::Native: Into<f64>,
    {
        let compute = |a: T::Native, b: T::Native| {
            let (result, may_be_zero) = match self.operator {
                Operator::Plus => (a.add_wrapping(b), true),
                Operator::Minus => (a.sub_wrapping(b), true),
                Operator::Multiply => (a.mul_wrapping(b), a.is_zero() || b.is_zero()),
                _ if b.is_zero() && !Into::<f64>::into(a).is_nan() => return Err(ArrowError::DivideByZero),
                _ => (a.div_wrapping(b), a.is_zero() || Into::<f64>::into(b).is_infinite()),
            };
            let is_infinite = |value: T::Native| Into::<f64>::into(value).is_infinite();
            let has_overflown = is_infinite(result) && !is_infinite(a) && !is_infinite(b);
            if has_overflown || (result.is_zero() && !may_be_zero) {
                let what = if has_overflown { "overflow" } else { "underflow" };
                return Err(ArrowError::ArithmeticOverflow(format!("value out of range: {what}")));
            }
            Ok(result)
        };
        Ok(Arc::new(try_binary::<_, _, _, T>(
            operands[0].as_primitive::<T>(),
            operands[1].as_primitive::<T>(),
            compute,
        )?))
    }
}

/// Arrow's type of an interval.
pub(super) const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
