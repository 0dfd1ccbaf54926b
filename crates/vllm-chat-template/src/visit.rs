//! A walk over every statement and expression of a parsed template.

use minijinja::machinery::ast::{CallArg, Expr, Macro, Stmt};

/// Receives the nodes, parents before children.
pub(crate) trait Visitor<'s> {
    /// A statement.
    fn statement(&mut self, _statement: &Stmt<'s>) {}
    /// An expression.
    fn expression(&mut self, _expression: &Expr<'s>) {}
}

/// Walks a statement and everything in it.
pub(crate) fn walk<'s>(statement: &Stmt<'s>, visitor: &mut impl Visitor<'s>) {
    visitor.statement(statement);
    match statement {
        Stmt::Template(node) => walk_all(&node.children, visitor),
        Stmt::EmitExpr(node) => walk_expression(&node.expr, visitor),
        Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => {}
        Stmt::ForLoop(node) => {
            walk_expression(&node.iter, visitor);
            walk_optional(node.filter_expr.as_ref(), visitor);
            walk_all(&node.body, visitor);
            walk_all(&node.else_body, visitor);
        }
        Stmt::IfCond(node) => {
            walk_expression(&node.expr, visitor);
            walk_all(&node.true_body, visitor);
            walk_all(&node.false_body, visitor);
        }
        Stmt::WithBlock(node) => {
            for (_, value) in &node.assignments {
                walk_expression(value, visitor);
            }
            walk_all(&node.body, visitor);
        }
        Stmt::Set(node) => walk_expression(&node.expr, visitor),
        Stmt::SetBlock(node) => {
            walk_optional(node.filter.as_ref(), visitor);
            walk_all(&node.body, visitor);
        }
        Stmt::AutoEscape(node) => walk_all(&node.body, visitor),
        Stmt::FilterBlock(node) => {
            walk_expression(&node.filter, visitor);
            walk_all(&node.body, visitor);
        }
        Stmt::Block(node) => walk_all(&node.body, visitor),
        Stmt::Import(node) => walk_expression(&node.expr, visitor),
        Stmt::FromImport(node) => walk_expression(&node.expr, visitor),
        Stmt::Extends(node) => walk_expression(&node.name, visitor),
        Stmt::Include(node) => walk_expression(&node.name, visitor),
        Stmt::Macro(node) => walk_macro(node, visitor),
        Stmt::CallBlock(node) => {
            walk_expression(&node.call.expr, visitor);
            walk_arguments(&node.call.args, visitor);
            walk_macro(&node.macro_decl, visitor);
        }
        Stmt::Do(node) => {
            walk_expression(&node.call.expr, visitor);
            walk_arguments(&node.call.args, visitor);
        }
    }
}

fn walk_all<'s>(statements: &[Stmt<'s>], visitor: &mut impl Visitor<'s>) {
    for statement in statements {
        walk(statement, visitor);
    }
}

fn walk_macro<'s>(declaration: &Macro<'s>, visitor: &mut impl Visitor<'s>) {
    for default in &declaration.defaults {
        walk_expression(default, visitor);
    }
    walk_all(&declaration.body, visitor);
}

fn walk_expression<'s>(expression: &Expr<'s>, visitor: &mut impl Visitor<'s>) {
    visitor.expression(expression);
    match expression {
        Expr::Var(_) | Expr::Const(_) => {}
        Expr::Slice(node) => {
            walk_expression(&node.expr, visitor);
            walk_optional(node.start.as_ref(), visitor);
            walk_optional(node.stop.as_ref(), visitor);
            walk_optional(node.step.as_ref(), visitor);
        }
        Expr::UnaryOp(node) => walk_expression(&node.expr, visitor),
        Expr::BinOp(node) => {
            walk_expression(&node.left, visitor);
            walk_expression(&node.right, visitor);
        }
        Expr::Compare(node) => {
            walk_expression(&node.expr, visitor);
            for operand in &node.ops {
                walk_expression(&operand.expr, visitor);
            }
        }
        Expr::IfExpr(node) => {
            walk_expression(&node.test_expr, visitor);
            walk_expression(&node.true_expr, visitor);
            walk_optional(node.false_expr.as_ref(), visitor);
        }
        Expr::Filter(node) => {
            walk_optional(node.expr.as_ref(), visitor);
            walk_arguments(&node.args, visitor);
        }
        Expr::Test(node) => {
            walk_expression(&node.expr, visitor);
            walk_arguments(&node.args, visitor);
        }
        Expr::GetAttr(node) => walk_expression(&node.expr, visitor),
        Expr::GetItem(node) => {
            walk_expression(&node.expr, visitor);
            walk_expression(&node.subscript_expr, visitor);
        }
        Expr::Call(node) => {
            walk_expression(&node.expr, visitor);
            walk_arguments(&node.args, visitor);
        }
        Expr::List(node) => walk_expressions(&node.items, visitor),
        Expr::Tuple(node) => walk_expressions(&node.items, visitor),
        Expr::Map(node) => {
            walk_expressions(&node.keys, visitor);
            walk_expressions(&node.values, visitor);
        }
    }
}

fn walk_expressions<'s>(expressions: &[Expr<'s>], visitor: &mut impl Visitor<'s>) {
    for expression in expressions {
        walk_expression(expression, visitor);
    }
}

fn walk_optional<'s>(expression: Option<&Expr<'s>>, visitor: &mut impl Visitor<'s>) {
    if let Some(expression) = expression {
        walk_expression(expression, visitor);
    }
}

fn walk_arguments<'s>(arguments: &[CallArg<'s>], visitor: &mut impl Visitor<'s>) {
    for argument in arguments {
        walk_expression(argument_value(argument), visitor);
    }
}

/// The expression of a call argument, however it is passed.
pub(crate) fn argument_value<'a, 's>(argument: &'a CallArg<'s>) -> &'a Expr<'s> {
    match argument {
        CallArg::Pos(value)
        | CallArg::Kwarg(_, value)
        | CallArg::PosSplat(value)
        | CallArg::KwargSplat(value) => value,
    }
}
