package org.tensorflow.lite;

public class Tensor {
  public static class QuantizationParams {
    public float getScale() {
      return 0.0125f;
    }

    public int getZeroPoint() {
      return -55;
    }
  }

  private final boolean isInt8;
  private final int n;

  Tensor(boolean isInt8, int n) {
    this.isInt8 = isInt8;
    this.n = n;
  }

  public DataType dataType() {
    return isInt8 ? DataType.INT8 : DataType.FLOAT32;
  }

  public int numBytes() {
    return isInt8 ? n : 4 * n;
  }

  public QuantizationParams quantizationParams() {
    return new QuantizationParams();
  }
}
