use crate::exec::decode::Decoder;
use crate::exec::module::LoadError;
use crate::exec::program::Inst;
use crate::ptx::ast::Instruction;

/// Decodes an instruction of this family, if it is one.
pub fn decode(_d: &mut Decoder, _i: &Instruction) -> Result<Option<Inst>, LoadError> {
    Ok(None)
}
