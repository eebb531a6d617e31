//! What feeds tell of a table: an expression of which rows, and a SELECT list of what of them.
//!
//! Both are planned as a query over rows that are given; of its plan the projections alone are kept, and computed of batches of rows.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::sql::sqlparser::ast::{Expr, Query, SelectItem, SetExpr, Statement, Visit, Visitor};
use highwater_changefeed::{FittedSelection, Selected, Selection, SelectionError, Selector};
use highwater_log::position::{ColumnId, StorageId};
use highwater_log::schema::{ColumnSchema, TableSchema};
use highwater_log::value::{ColumnType, ElementType};
use highwater_materializers::{Table, TableRow};

use crate::dml::encode_row;
use crate::engine::{Engine, WeakEngine};
use crate::error::SqlError;
use crate::fixed::{function_name, is_fixed};
use crate::names::result_names;
use crate::parser::{Parsed, parse};
use crate::providers::{TARGET_NAMESPACE, Target};
use crate::sqlstate;
use crate::statement::{parse_own_query, quoted};
use crate::types::{self, ColumnBuilder};
use crate::write::context;

/// Compiles what feeds select, with a database's functions.
pub(crate) struct FeedSelector(pub(crate) WeakEngine);

impl Selector for FeedSelector {
    fn compile(
        &self,
        table: &Arc<Table>,
        filter: Option<&str>,
        columns: Option<&str>,
    ) -> Result<Arc<dyn Selection>, SelectionError> {
        Ok(Arc::new(compile(&self.0.upgrade()?, table, filter, columns)?))
    }
}

impl From<SqlError> for SelectionError {
    fn from(error: SqlError) -> Self {
        Self { sqlstate: error.sqlstate, message: error.to_string() }
    }
}

/// The texts, planned over one version of their table.
#[derive(Clone)]
struct Compiled {
    /// The columns that are needed, in the order in which they are given.
    inputs: Vec<Input>,
    schema: SchemaRef,
    /// One computed of the other: the first of the inputs. The last one's first column tells whether a row is told.
    steps: Vec<Step>,
    /// What is told, where that is not the row as it is.
    outputs: Option<Vec<ColumnSchema>>,
}

#[derive(Clone)]
struct Input {
    id: ColumnId,
    column_type: ColumnType,
    name: String,
}

#[derive(Clone)]
struct Step {
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
}

fn compile(
    engine: &Engine,
    table: &Arc<Table>,
    filter: Option<&str>,
    columns: Option<&str>,
) -> Result<Compiled, SqlError> {
    let context = context(engine);
    let transaction = engine.transaction(engine.visible())?;
    let filter = match filter {
        None => "true".to_owned(),
        Some(filter) => {
            let items = items(engine, filter, "a filter")?;
            let [SelectItem::UnnamedExpr(filter)] = &items[..] else {
                return Err(SqlError::syntax("a filter is one expression"));
            };
            crate::rewrite::written(filter)
        }
    };
    let mut list = vec![format!("({filter}) AS {PASSES}")];
    if let Some(columns) = columns {
        list.extend(items(engine, columns, "a list of columns")?.iter().map(crate::rewrite::written));
    }
    let alias = quoted(&table.schema().name);
    let sql = format!("SELECT {} FROM {TARGET_NAMESPACE}.{ROWS} AS {alias}", list.join(", "));
    let given = RecordBatch::new_empty(Arc::new(Schema::new(
        // Another version of the table may have NULL anywhere.
        table.schema().columns.iter().map(|column| types::column_field(column).with_nullable(true)).collect::<Vec<_>>(),
    )));
    let target = Target::Given(vec![(ROWS, given)]);
    let planned = context.plan(&transaction, parse_own_query(&sql)?, Some(target))?;
    let (mut steps, leaf) = (Vec::new(), steps_of(&planned.physical)?);
    for projection in leaf.projections.into_iter().rev() {
        let expressions = projection.expr().iter().map(|item| Arc::clone(&item.expr)).collect();
        steps.push(Step { expressions, schema: projection.schema() });
    }
    let told = steps.last().map(|step| Arc::clone(&step.schema));
    let told = told.ok_or_else(|| SqlError::internal("a selection without a step"))?;
    if types::column_type(told.field(0))? != ElementType::Boolean.into() {
        let message = "argument of a feed's filter must be type boolean";
        return Err(SqlError::new(sqlstate::DATATYPE_MISMATCH, message));
    }
    let outputs = columns.map(|_| outputs(&told)).transpose()?;
    let inputs = leaf.schema.fields().iter().map(|field| {
        let column = table.schema().column_named(field.name());
        let column = column.ok_or_else(|| SqlError::internal("a selection of an unknown column"))?;
        Ok(Input { id: column.id, column_type: column.column_type, name: column.name.clone() })
    });
    Ok(Compiled { inputs: inputs.collect::<Result<_, SqlError>>()?, schema: leaf.schema, steps, outputs })
}

/// A text's items, if it is nothing but the items of a SELECT that computes of a row what it always computes of it.
fn items(engine: &Engine, text: &str, what: &str) -> Result<Vec<SelectItem>, SqlError> {
    let parsed = parse(&format!("SELECT {text}"))?.single();
    let Some(Parsed { statement: Statement::Query(query), as_of: None, parameter_count: 0 }) = parsed else {
        return Err(SqlError::syntax(format!("{what} is an expression")));
    };
    let SetExpr::Select(select) = &*query.body else { return Err(SqlError::syntax(format!("{what} is no query"))) };
    let items = select.projection.clone();
    let list: Vec<String> = items.iter().map(ToString::to_string).collect();
    if query.to_string() != format!("SELECT {}", list.join(", ")) {
        return Err(SqlError::syntax(format!("{what} is no query")));
    }
    match query.visit(&mut Fixed { engine, depth: 0 }) {
        ControlFlow::Continue(()) => Ok(items),
        ControlFlow::Break(found) => Err(SqlError::unsupported(&format!("{found} in {what} of a feed"))),
    }
}

/// Looks for what does not depend on the row alone.
struct Fixed<'a> {
    engine: &'a Engine,
    depth: usize,
}

impl Visitor for Fixed<'_> {
    type Break = String;

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<String> {
        self.depth += 1;
        if self.depth > 1 { ControlFlow::Break("a subquery".to_owned()) } else { ControlFlow::Continue(()) }
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<String> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function_name(function);
        if !is_fixed(self.engine, &name) || function.over.is_some() || self.engine.is_aggregate(&name) {
            return ControlFlow::Break(format!("{name}(), which does not depend on the row alone,"));
        }
        ControlFlow::Continue(())
    }
}

/// What is computed of what, outermost first, and what the rows are given as.
struct Steps<'a> {
    projections: Vec<&'a ProjectionExec>,
    schema: SchemaRef,
}

fn steps_of(plan: &Arc<dyn ExecutionPlan>) -> Result<Steps<'_>, SqlError> {
    let (mut projections, mut node) = (Vec::new(), plan);
    loop {
        if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
            projections.push(projection);
            node = projection.input();
            continue;
        }
        match &node.children()[..] {
            [] => return Ok(Steps { projections, schema: node.schema() }),
            [child] if node.is::<CooperativeExec>() => node = child,
            _ => return Err(SqlError::unsupported("what is not computed of single rows, in a feed")),
        }
    }
}

/// The columns that are told: all but the first.
fn outputs(told: &Schema) -> Result<Vec<ColumnSchema>, SqlError> {
    let mut outputs: Vec<ColumnSchema> = Vec::new();
    for ((name, field), id) in result_names(told).zip(told.fields()).skip(1).zip(1..) {
        if outputs.iter().any(|known| known.name == name) {
            let message = format!("column name \"{name}\" is told twice: name one of them AS something else");
            return Err(SqlError::new(sqlstate::DUPLICATE_COLUMN, message));
        }
        outputs.push(ColumnSchema {
            id: ColumnId::new(id),
            name: name.to_owned(),
            column_type: types::column_type(field)?,
            not_null: !field.is_nullable(),
            default: None,
            missing: None,
        });
    }
    Ok(outputs)
}

impl Selection for Compiled {
    fn fit(&self, table: &Arc<Table>) -> Result<Arc<dyn FittedSelection>, SelectionError> {
        let place = |input: &Input| {
            table.layout().index_of(input.id).ok_or_else(|| {
                let message = format!("column \"{}\" of relation \"{}\" was dropped", input.name, table.schema().name);
                SqlError::new(sqlstate::UNDEFINED_COLUMN, message)
            })
        };
        let places = self.inputs.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let shape = match &self.outputs {
            None => Arc::clone(table),
            Some(columns) => Arc::new(shape(table, columns.clone())),
        };
        Ok(Arc::new(Fitted { compiled: self.clone(), places, shape }))
    }
}

/// A table of the told columns, called as the one that they are told of.
fn shape(table: &Table, columns: Vec<ColumnSchema>) -> Table {
    let TableSchema { id, namespace, name, version, .. } = table.schema().clone();
    let next_column = ColumnId::new(u32::try_from(columns.len()).unwrap_or(u32::MAX).saturating_add(1));
    let schema = TableSchema {
        id,
        namespace,
        name,
        version,
        // Its rows are nowhere.
        storage: StorageId::new(0),
        columns,
        primary_key: Vec::new(),
        primary_key_name: None,
        uniques: Vec::new(),
        indexes: Vec::new(),
        next_column,
    };
    Table::new(schema, table.written())
}

struct Fitted {
    compiled: Compiled,
    /// Of the inputs, in the table's layout.
    places: Vec<usize>,
    shape: Arc<Table>,
}

impl FittedSelection for Fitted {
    fn shape(&self) -> &Arc<Table> {
        &self.shape
    }

    fn select(&self, rows: &[TableRow<'_>]) -> Result<Vec<Selected>, SelectionError> {
        Ok(self.selected(rows)?)
    }
}

impl Fitted {
    fn selected(&self, rows: &[TableRow<'_>]) -> Result<Vec<Selected>, SqlError> {
        let mut batch = self.given(rows)?;
        for step in &self.compiled.steps {
            let columns = step.expressions.iter().map(|expression| {
                let value = expression.evaluate(&batch)?;
                Ok(value.into_array(rows.len())?)
            });
            let columns = columns.collect::<Result<Vec<_>, SqlError>>()?;
            batch = RecordBatch::try_new(Arc::clone(&step.schema), columns)?;
        }
        let passes = batch.column(0).as_boolean();
        let told = self.told(&batch)?;
        let row = |row: usize| {
            if passes.is_null(row) || !passes.value(row) {
                return Ok(Selected::Not);
            }
            let Some(outputs) = &self.compiled.outputs else { return Ok(Selected::AsItIs) };
            let values = outputs.iter().zip(&told);
            let values = values.map(|(column, array)| types::value_at(array, row, column.column_type));
            let values = values.collect::<Result<Vec<_>, SqlError>>()?;
            Ok(Selected::As(encode_row(&self.shape, &values)?))
        };
        (0..rows.len()).map(row).collect()
    }

    /// The told columns, in the types that they are stored in.
    fn told(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, SqlError> {
        let outputs = self.compiled.outputs.iter().flatten().zip(&batch.columns()[1..]);
        outputs.map(|(column, array)| types::canonical_array(array, &types::arrow_type(column.column_type))).collect()
    }

    /// The columns of rows that are needed.
    fn given(&self, rows: &[TableRow<'_>]) -> Result<RecordBatch, SqlError> {
        let inputs = self.compiled.inputs.iter().zip(&self.places);
        let columns = inputs.map(|(input, place)| {
            let mut builder = ColumnBuilder::new(input.column_type);
            rows.iter().try_for_each(|row| builder.append(row.value(*place)?))?;
            Ok(builder.finish())
        });
        let columns = columns.collect::<Result<Vec<_>, SqlError>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.compiled.schema), columns, &options)?)
    }
}

/// What the rows are called on their way through the planner, and the column that tells whether one passes.
const ROWS: &str = "rows";
const PASSES: &str = "hw_passes";
