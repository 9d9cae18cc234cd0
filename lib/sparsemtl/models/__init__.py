"""Networks: the dual-task EEG CNN and the dilated ResNet with dense heads."""
