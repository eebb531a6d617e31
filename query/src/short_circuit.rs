//! `AND` and `OR` whose right side is computed only where the left one leaves it open.
//!
//! `b <> 0 AND a / b > 1` must not divide by zero. PostgreSQL promises no order, but keeps to the written one, and so does everybody
//! who writes such a condition. DataFusion computes both sides of whole batches, unless few rows are left.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{and_kleene, is_null, not, or, or_kleene};
use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{
    BinaryExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

/// The plan with filters and projections whose conditions are computed in the order in which they are written.
pub(crate) fn short_circuiting(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let changed = plan.transform_up(|node| {
        if let Some(filter) = node.downcast_ref::<FilterExec>() {
            let predicate = in_order(Arc::clone(filter.predicate()))?;
            if predicate.transformed {
                let filter = FilterExecBuilder::from(filter).with_predicate(predicate.data).build()?;
                return Ok(Transformed::yes(Arc::new(filter) as Arc<dyn ExecutionPlan>));
            }
        } else if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
            let mut is_changed = false;
            let mut expressions = Vec::with_capacity(projection.expr().len());
            for ProjectionExpr { expr, alias } in projection.expr() {
                let expr = in_order(Arc::clone(expr))?;
                is_changed |= expr.transformed;
                expressions.push(ProjectionExpr { expr: expr.data, alias: alias.clone() });
            }
            if is_changed {
                let projection = ProjectionExec::try_new(expressions, Arc::clone(projection.input()))?;
                return Ok(Transformed::yes(Arc::new(projection) as Arc<dyn ExecutionPlan>));
            }
        // One with a limit was made by then, and cannot be made again.
        } else if let Some(aggregate) = node.downcast_ref::<AggregateExec>().filter(|it| it.limit_options().is_none())
            && let Some(aggregate) = aggregate_in_order(aggregate)?
        {
            return Ok(Transformed::yes(Arc::new(aggregate) as Arc<dyn ExecutionPlan>));
        }
        Ok(Transformed::no(node))
    })?;
    Ok(changed.data)
}

/// An aggregation whose filters and arguments are computed in order; `None`: they are anyway.
fn aggregate_in_order(aggregate: &AggregateExec) -> Result<Option<AggregateExec>> {
    let mut is_changed = false;
    let mut ordered = |expr: &Arc<dyn PhysicalExpr>| {
        let expr = in_order(Arc::clone(expr))?;
        is_changed |= expr.transformed;
        Ok::<_, DataFusionError>(expr.data)
    };
    let filters = aggregate.filter_expr().iter().map(|filter| filter.as_ref().map(&mut ordered).transpose());
    let filters = filters.collect::<Result<Vec<_>>>()?;
    let mut functions = Vec::with_capacity(aggregate.aggr_expr().len());
    for function in aggregate.aggr_expr() {
        let known = function.all_expressions();
        let args = known.args.iter().map(&mut ordered).collect::<Result<Vec<_>>>()?;
        // Where it cannot be made anew, it stays.
        let made = function.with_new_expressions(args, known.order_by_exprs);
        functions.push(made.map_or_else(|| Arc::clone(function), Arc::new));
    }
    if !is_changed {
        return Ok(None);
    }
    let (groups, input) = (aggregate.group_expr().clone(), Arc::clone(aggregate.input()));
    AggregateExec::try_new(*aggregate.mode(), groups, functions, filters, input, aggregate.input_schema()).map(Some)
}

/// The condition with its parts in order, where that makes a difference.
pub(crate) fn in_order(condition: Arc<dyn PhysicalExpr>) -> Result<Transformed<Arc<dyn PhysicalExpr>>> {
    condition.transform_up(|expr| {
        let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return Ok(Transformed::no(expr)) };
        let connective = match binary.op() {
            Operator::And => Connective::And,
            Operator::Or => Connective::Or,
            _ => return Ok(Transformed::no(expr)),
        };
        if !can_fail(binary.right())? {
            return Ok(Transformed::no(expr));
        }
        let (left, right) = (Arc::clone(binary.left()), Arc::clone(binary.right()));
        Ok(Transformed::yes(Arc::new(ShortCircuit { left, connective, right }) as Arc<dyn PhysicalExpr>))
    })
}

/// Whether computing it may fail: where it does anything but compare.
fn can_fail(expr: &Arc<dyn PhysicalExpr>) -> Result<bool> {
    let mut is_found = false;
    expr.apply(|expr| {
        let is_harmless = match expr.downcast_ref::<BinaryExpr>() {
            Some(binary) => binary.op().supports_propagation() || matches!(binary.op(), Operator::And | Operator::Or),
            None => {
                expr.is::<Column>()
                    || expr.is::<Literal>()
                    || expr.is::<NotExpr>()
                    || expr.is::<IsNullExpr>()
                    || expr.is::<IsNotNullExpr>()
                    || expr.is::<InListExpr>()
                    || expr.is::<LikeExpr>()
            }
        };
        is_found |= !is_harmless;
        Ok(if is_found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(is_found)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Connective {
    And,
    Or,
}

/// `left AND right`, `left OR right`.
#[derive(Debug, Eq)]
struct ShortCircuit {
    left: Arc<dyn PhysicalExpr>,
    connective: Connective,
    right: Arc<dyn PhysicalExpr>,
}

impl ShortCircuit {
    /// The rows whose right side must be computed: where the left one is unknown, or does not decide alone.
    fn open(&self, left: &BooleanArray) -> Result<BooleanArray, DataFusionError> {
        let holds = match self.connective {
            Connective::And => left.clone(),
            Connective::Or => not(left)?,
        };
        let unknown = is_null(&holds)?;
        Ok(or(&BooleanArray::new(holds.values().clone(), None), &unknown)?)
    }
}

impl PhysicalExpr for ShortCircuit {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        Ok(self.left.nullable(schema)? || self.right.nullable(schema)?)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let left = self.left.evaluate(batch)?.into_array(batch.num_rows())?;
        let left = left.as_boolean();
        let open = self.open(left)?;
        if !open.has_true() {
            return Ok(ColumnarValue::Array(Arc::new(left.clone())));
        }
        let right = self.right.evaluate_selection(batch, &open)?.into_array(batch.num_rows())?;
        // Where the right side was not computed it is NULL, which leaves what the left one has decided.
        let result = match self.connective {
            Connective::And => and_kleene(left, right.as_boolean())?,
            Connective::Or => or_kleene(left, right.as_boolean())?,
        };
        Ok(ColumnarValue::Array(Arc::new(result)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.left, &self.right]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let (left, right) = (Arc::clone(&children[0]), Arc::clone(&children[1]));
        Ok(Arc::new(Self { left, connective: self.connective, right }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// Derived, it would move the pointers that it compares.
impl PartialEq for ShortCircuit {
    fn eq(&self, other: &Self) -> bool {
        self.left.eq(&other.left) && self.connective == other.connective && self.right.eq(&other.right)
    }
}

impl Hash for ShortCircuit {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.left.hash(state);
        self.connective.hash(state);
        self.right.hash(state);
    }
}

impl fmt::Display for ShortCircuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.connective {
            Connective::And => "AND",
            Connective::Or => "OR",
        };
        write!(f, "({}) {word} ({})", self.left, self.right)
    }
}
