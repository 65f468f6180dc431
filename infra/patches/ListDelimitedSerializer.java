// The change to Flink 1.19, flink-runtime:
// org.apache.flink.runtime.state.ListDelimitedSerializer.deserializeList
//
// javap -c before and after:
//   - 48: aload_3
//   - 49: areturn
//   + 48: nop
//   + 49: aload_0
//   + 50: getfield      dataInputView:LDataInputDeserializer;
//   + 53: iconst_0
//   + 54: newarray      byte
//   + 56: invokevirtual DataInputDeserializer.setBuffer:([B)V
//   + 59: aload_3
//   + 60: areturn
//
// The nop stands where `aload_3` stood: the local variable table of the class ends at offset 49,
// which must be the start of an instruction.

public <T> List<T> deserializeList(byte[] valueBytes, TypeSerializer<T> elementSerializer) {
  if (valueBytes == null) {
    return null;
  }
  dataInputView.setBuffer(valueBytes);
  List<T> result = new ArrayList<>();
  T next;
  while ((next = deserializeNextElement(dataInputView, elementSerializer)) != null) {
    result.add(next);
  }
  dataInputView.setBuffer(new byte[0]); // added
  return result;
}
