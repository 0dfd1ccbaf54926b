//! What the parsed template says about the messages it wants.

use std::collections::BTreeSet;

use minijinja::machinery::ast::{Expr, Macro, Stmt};

use crate::filters::{STORE, STORE_IN_NAMESPACE};
use crate::visit::{Visitor, argument_value, walk};

/// The form in which a template reads message contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentFormat {
    /// A plain string.
    String,
    /// A list of parts such as `{"type": "text", "text": "Hi"}`.
    OpenAi,
}

/// Finds out whether the template loops over the parts of a message's content: directly, through
/// assigned variables, or in a macro that is given the content.
///
/// The tree is searched for names that hold the list of messages, one message, or a content,
/// until no new name turns up; names are not scoped, as templates use them consistently.
pub(crate) fn content_format(template: &Stmt<'_>) -> ContentFormat {
    let mut names = Names::default();
    names.messages.insert("messages");
    names.contents.insert("content");
    loop {
        let known = names.count();
        walk(template, &mut names);
        if names.loops_over_content {
            return ContentFormat::OpenAi;
        }
        if names.count() == known {
            return ContentFormat::String;
        }
    }
}

/// What the variables and macro parameters of a template hold.
#[derive(Default)]
struct Names<'s> {
    messages: BTreeSet<&'s str>,
    message: BTreeSet<&'s str>,
    contents: BTreeSet<&'s str>,
    macros: Vec<(&'s str, Vec<&'s str>)>,
    loops_over_content: bool,
}

/// What an expression is about.
#[derive(Clone, Copy, PartialEq)]
enum Subject {
    Messages,
    Message,
    Content,
}

impl<'s> Names<'s> {
    fn count(&self) -> usize {
        self.messages.len() + self.message.len() + self.contents.len() + self.macros.len()
    }

    fn assign(&mut self, name: &'s str, subject: Option<Subject>) {
        match subject {
            Some(Subject::Messages) => self.messages.insert(name),
            Some(Subject::Message) => self.message.insert(name),
            Some(Subject::Content) => self.contents.insert(name),
            None => false,
        };
    }

    /// Sees through filters, slices, defaults and conditions to what an expression is about.
    fn subject(&self, expression: &Expr<'s>) -> Option<Subject> {
        match expression {
            Expr::Var(variable) => {
                let name = variable.id;
                if self.messages.contains(name) {
                    Some(Subject::Messages)
                } else if self.message.contains(name) {
                    Some(Subject::Message)
                } else if self.contents.contains(name) {
                    Some(Subject::Content)
                } else {
                    None
                }
            }
            Expr::GetAttr(access) => self.member(&access.expr, Some(access.name)),
            Expr::GetItem(access) => {
                self.member(&access.expr, constant_text(&access.subscript_expr))
            }
            // `messages[1:]` and `messages | selectattr(..)` are still messages.
            Expr::Slice(slice) => self.subject(&slice.expr),
            Expr::Filter(filter) => {
                let subject = self.subject(filter.expr.as_ref()?)?;
                match filter.name {
                    "first" | "last" if subject == Subject::Messages => Some(Subject::Message),
                    "list" | "reverse" | "selectattr" | "rejectattr" | "select" | "reject"
                    | "default" | "d" | STORE | STORE_IN_NAMESPACE => Some(subject),
                    _ => None,
                }
            }
            Expr::IfExpr(condition) => self
                .subject(&condition.true_expr)
                .or_else(|| self.subject(condition.false_expr.as_ref()?)),
            Expr::BinOp(operation) => match operation.op {
                minijinja::machinery::ast::BinOpKind::ScOr => self.subject(&operation.left),
                _ => None,
            },
            // `message.get('content')`
            Expr::Call(call) => match &call.expr {
                Expr::GetAttr(method) if method.name == "get" => self.member(
                    &method.expr,
                    constant_text(argument_value(call.args.first()?)),
                ),
                _ => None,
            },
            _ => None,
        }
    }

    fn member(&self, owner: &Expr<'s>, name: Option<&str>) -> Option<Subject> {
        match (self.subject(owner)?, name) {
            (Subject::Messages, None) => Some(Subject::Message),
            (Subject::Message, Some("content")) => Some(Subject::Content),
            _ => None,
        }
    }

    /// Passes what is known of the arguments on to the parameters of the called macro.
    fn call(&mut self, name: &str, arguments: &[(Option<&'s str>, Option<Subject>)]) {
        let declared = self.macros.iter().find(|(declared, _)| *declared == name);
        let Some(parameters) = declared.map(|(_, parameters)| parameters.clone()) else {
            return;
        };
        for (index, (keyword, subject)) in arguments.iter().enumerate() {
            let parameter = keyword.or_else(|| parameters.get(index).copied());
            if let Some(parameter) = parameter {
                self.assign(parameter, *subject);
            }
        }
    }

    fn declare(&mut self, declaration: &Macro<'s>) {
        if self
            .macros
            .iter()
            .any(|(name, _)| *name == declaration.name)
        {
            return;
        }
        let parameters = declaration.args.iter().filter_map(variable_name).collect();
        self.macros.push((declaration.name, parameters));
    }
}

impl<'s> Visitor<'s> for Names<'s> {
    fn statement(&mut self, statement: &Stmt<'s>) {
        match statement {
            Stmt::Set(assignment) => {
                if let Some(name) = variable_name(&assignment.target) {
                    let subject = self.subject(&assignment.expr);
                    self.assign(name, subject);
                }
            }
            Stmt::WithBlock(block) => {
                for (target, value) in &block.assignments {
                    if let Some(name) = variable_name(target) {
                        let subject = self.subject(value);
                        self.assign(name, subject);
                    }
                }
            }
            Stmt::ForLoop(node) => match self.subject(&node.iter) {
                Some(Subject::Messages) => {
                    if let Some(name) = variable_name(&node.target) {
                        self.assign(name, Some(Subject::Message));
                    }
                }
                Some(Subject::Content) => self.loops_over_content = true,
                _ => {}
            },
            Stmt::Macro(declaration) => self.declare(declaration),
            _ => {}
        }
    }

    fn expression(&mut self, expression: &Expr<'s>) {
        use minijinja::machinery::ast::CallArg;
        let Expr::Call(call) = expression else { return };
        let Some(name) = variable_name(&call.expr) else {
            return;
        };
        let arguments: Vec<_> = call
            .args
            .iter()
            .map(|argument| {
                let keyword = match argument {
                    CallArg::Kwarg(keyword, _) => Some(*keyword),
                    _ => None,
                };
                (keyword, self.subject(argument_value(argument)))
            })
            .collect();
        self.call(name, &arguments);
    }
}

fn variable_name<'s>(expression: &Expr<'s>) -> Option<&'s str> {
    match expression {
        Expr::Var(variable) => Some(variable.id),
        _ => None,
    }
}

fn constant_text<'a>(expression: &'a Expr<'_>) -> Option<&'a str> {
    match expression {
        Expr::Const(constant) => constant.value.as_str(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChatTemplate;

    fn check(source: &str, expected: ContentFormat) {
        assert_eq!(
            ChatTemplate::new(source).unwrap().content_format(),
            expected,
            "{source}"
        );
    }

    #[test]
    fn a_loop_over_a_content_asks_for_parts() {
        let direct = "{% for m in messages %}{% for c in m['content'] %}{% endfor %}{% endfor %}";
        check(direct, ContentFormat::OpenAi);
        check(
            &direct.replace("m['content']", "m.content | selectattr('type')"),
            ContentFormat::OpenAi,
        );
        check(
            &direct.replace("m['content']", "m.get('content') or []"),
            ContentFormat::OpenAi,
        );
        check(
            &direct.replace("in messages", "in messages[1:]"),
            ContentFormat::OpenAi,
        );
        check(
            "{% set rest = messages[1:] %}{% for m in rest %}{% set text = m.content %}\
             {% for c in text %}{% endfor %}{% endfor %}",
            ContentFormat::OpenAi,
        );
        check(
            "{% set first = messages[0] %}{% for c in first.content %}{% endfor %}",
            ContentFormat::OpenAi,
        );
        check(
            "{% for c in messages[0]['content'] %}{% endfor %}",
            ContentFormat::OpenAi,
        );
        check(
            "{% macro show(x) %}{% for c in x %}{% endfor %}{% endmacro %}\
             {% for m in messages %}{{ show(m.content) }}{% endfor %}",
            ContentFormat::OpenAi,
        );
        check(
            "{% macro show(m) %}{% for c in m.content %}{% endfor %}{% endmacro %}\
             {% for message in messages %}{{ show(m=message) }}{% endfor %}",
            ContentFormat::OpenAi,
        );
        check("{% for c in content %}{% endfor %}", ContentFormat::OpenAi);
    }

    #[test]
    fn anything_else_takes_strings() {
        check("", ContentFormat::String);
        check(
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            ContentFormat::String,
        );
        check(
            "{% for m in messages %}{% for c in m.tool_calls %}{% endfor %}{% endfor %}",
            ContentFormat::String,
        );
        check(
            "{% for m in messages %}{% for c in m.content.split('x') %}{% endfor %}{% endfor %}",
            ContentFormat::String,
        );
        check(
            "{% for t in tools %}{% for c in t.content %}{% endfor %}{% endfor %}",
            ContentFormat::String,
        );
    }
}
